"""The report of a comparison: one HTML file that needs nothing but a browser, and its pictures for papers."""
