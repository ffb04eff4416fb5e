"""The importer of OAI releases: from folders and tables as users have them to a manifest."""
