DELETE FROM gateways WHERE instance = $1
