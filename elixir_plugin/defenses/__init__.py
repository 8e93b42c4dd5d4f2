"""The defenses in the box; announced in ``elixir_plugin.builtin``, imported when first used."""
