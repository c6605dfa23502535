"""Submit, resume and cancel jobs; keep a submission while the registry is away."""
