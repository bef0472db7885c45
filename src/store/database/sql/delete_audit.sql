DELETE FROM audit WHERE n <= $1
