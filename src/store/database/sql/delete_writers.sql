DELETE FROM writers WHERE applied_at < $1
