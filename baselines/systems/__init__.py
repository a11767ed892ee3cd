"""One file a system: its class is called `System`. A file that is added here is known by its name everywhere."""
