"""Uses of a checkpoint: analysing pictures and videos, searching faces, explaining and exporting."""
