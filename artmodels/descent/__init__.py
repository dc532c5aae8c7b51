"""Pictures made by descent: the loop, coarse to fine, and losses that compose like algebra."""
