DELETE FROM alerts WHERE ended_at < $1
