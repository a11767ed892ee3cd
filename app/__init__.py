"""A checkpoint in a browser: pictures, a webcam, videos, two faces side by side, and a search by words."""
