"""Studies of many models or many images, one folder or module for each."""
