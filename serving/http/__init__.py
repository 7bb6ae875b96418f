"""The HTTP server: a Flask app under Gunicorn's threads."""
