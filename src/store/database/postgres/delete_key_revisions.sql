DELETE FROM key_revisions WHERE committed_at < now() - INTERVAL '30 days'
    AND n < (SELECT value FROM revisions WHERE name = 'keys')
