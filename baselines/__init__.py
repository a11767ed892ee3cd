"""Other systems of the paper's tables, trained and measured as MF² is: `interface` says what one is."""
