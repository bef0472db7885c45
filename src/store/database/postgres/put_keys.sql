INSERT INTO keys AS old (id, position, revision, deleted_at, line)
SELECT id, $4 + place, $3, NULL, line
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS new (id, line, place)
ON CONFLICT (id) DO UPDATE SET
    -- A key that comes again is the last of the list.
    position = CASE WHEN old.deleted_at IS NULL THEN old.position ELSE excluded.position END,
    revision = excluded.revision,
    deleted_at = NULL,
    line = excluded.line
