UPDATE keys SET
    revision = $2,
    deleted_at = (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT,
    line = ''
WHERE id = ANY ($1::text[]) AND deleted_at IS NULL
