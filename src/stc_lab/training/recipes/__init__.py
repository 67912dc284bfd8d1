"""One module for each pocket model: its training stages as ``STAGES``, name to function of the folder."""
