"""Objects as files, without I/O: `read_ahead`: what a reader requests; `upload_steps`: what a writer sends."""
