"""Every way in which a federation can lose a part, and what its user sees then: a table."""
