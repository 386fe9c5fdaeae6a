"""Floor 4: tables, figures and the page. Knows run folders and statistics, nothing of attacks."""
