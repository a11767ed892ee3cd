"""Generated faces with exact landmarks, action units and emotions."""
