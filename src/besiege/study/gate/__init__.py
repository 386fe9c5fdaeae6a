"""Requirements on a defense for continuous integration: robustness beside what it costs."""
