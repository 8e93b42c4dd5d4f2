"""An elixir_plugin extension: one defense, one adapter, one poison."""
