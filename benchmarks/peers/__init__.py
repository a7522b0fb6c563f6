"""The other clients: a program in the language of each, and the measuring of all of them beside this project."""
