"""The guard over tokens: what a reader may see of an answer."""
