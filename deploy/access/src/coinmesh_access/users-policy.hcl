# Permissions to administer users: their logins, which only get tokens, and their roles.
path "auth/users/users/+" {
  capabilities = ["create", "update", "delete"]
  allowed_parameters = {
    "password"                = []
    "token_policies"          = ["user"]
    "token_no_default_policy" = [true]
    "token_type"              = ["batch"]
    "token_ttl"               = []
    "token_max_ttl"           = []
  }
}
path "auth/users/users/" { capabilities = ["list"] }
# Policies of an entity would also apply to its users.
path "identity/entity/name/+" {
  capabilities       = ["create", "read", "update", "delete"]
  allowed_parameters = { "metadata" = [] }
}
path "identity/entity-alias" { capabilities = ["create", "update"] }
# Former storage of roles (`users.adopt_groups`).
path "identity/group/name/+" { capabilities = ["read"] }
path "sys/auth" { capabilities = ["read"] }
