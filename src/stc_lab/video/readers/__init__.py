"""Readers of video files: decord, and PyAV for whatever decord cannot be trusted with."""
