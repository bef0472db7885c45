SELECT key_id, last_used_at, requests FROM key_uses
