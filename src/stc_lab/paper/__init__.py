"""Numbers printed in the STC paper (arXiv:2512.00891v2), with what is wrong about them."""

from stc_lab.paper.rows import PaperRow, corrections, find_row, paper_rows

__all__ = ["PaperRow", "corrections", "find_row", "paper_rows"]
