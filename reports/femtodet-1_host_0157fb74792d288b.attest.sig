{
 "algorithm": "ed25519",
 "key_id": "0157fb74792d288b",
 "schema": "edgekit/signature/1",
 "signature": "mP4nelj0wHB1b/mBG2tfVUOGzgYxvisyMScPdBzsRrBZoDxc8QFfn68I3IFrQhWV+l4ltn6G7C/vvY865m3EAA=="
}
