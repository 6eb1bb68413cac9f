# Permissions of `coinmesh-vault setup`: mounts, auth methods and policies, nothing else of sys.
path "sys/mounts"          { capabilities = ["read"] }
path "sys/mounts/*"        { capabilities = ["create", "read", "update"] }
path "sys/auth"            { capabilities = ["read"] }
path "sys/auth/*"          { capabilities = ["create", "read", "update", "sudo"] }
path "sys/policies/acl/*"  { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/policies/acl"    { capabilities = ["list"] }
path "pki/*"               { capabilities = ["create", "read", "update", "list", "sudo"] }
path "pki_int/*"           { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }
path "auth/approle/*"      { capabilities = ["create", "read", "update", "delete", "list"] }
path "auth/kubernetes/*"   { capabilities = ["create", "read", "update", "delete", "list"] }
path "identity/oidc/*"     { capabilities = ["create", "read", "update"] }
path "kv/*"                { capabilities = ["create", "read", "update", "delete", "list"] }
# The setup creates the key but may not sign with it.
path "transit/keys/audit"  { capabilities = ["create", "read", "update"] }
