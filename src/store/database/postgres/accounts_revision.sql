SELECT value FROM revisions WHERE name = 'accounts'
