"""What is done with a checkpoint: analysing pictures and videos, searching them, and showing what was found."""
