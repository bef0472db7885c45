SELECT hash FROM audit WHERE n = $1
