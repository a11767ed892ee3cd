"""From annotations to the MFA data set. Nothing here imports the model."""
