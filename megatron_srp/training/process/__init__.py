"""How the processes of a training end."""
