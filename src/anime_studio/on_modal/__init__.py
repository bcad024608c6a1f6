"""Everything that talks to Modal, except the App itself, which is `anime_studio.modal_app`."""
