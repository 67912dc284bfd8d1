"""The training recipe of the pocket models (``python -m stc_lab.pocket.train``)."""
