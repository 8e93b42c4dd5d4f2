"""What several adapters share: reading image files, untrusted numbers, writing results, templates."""
