"""How a run is trained and recorded."""
