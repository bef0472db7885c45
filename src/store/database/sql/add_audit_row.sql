INSERT INTO audit (
    n, at, actor, via, action, target, account, before, after, address, request_id, previous_hash, hash
) /*rows*/
