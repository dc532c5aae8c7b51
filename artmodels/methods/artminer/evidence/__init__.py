"""What shows that two places match: reports, exports, comparisons, verdicts."""
