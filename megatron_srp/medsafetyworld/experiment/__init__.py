"""From a world to trained models: a graph of resumable steps, each a command that a user could run by hand."""
