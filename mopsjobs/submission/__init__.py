"""Submit, resume and cancel jobs, also while the registry does not answer."""
