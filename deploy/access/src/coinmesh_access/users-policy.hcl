# What keeping users takes: logins that get tokens and nothing else, and who has which role.
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
# Policies of an entity would be its users' too.
path "identity/entity/name/+" {
  capabilities       = ["create", "read", "update", "delete"]
  allowed_parameters = { "metadata" = [] }
}
path "identity/entity-alias" { capabilities = ["create", "update"] }
# Where roles were kept before (`users.adopt_groups`).
path "identity/group/name/+" { capabilities = ["read"] }
path "sys/auth" { capabilities = ["read"] }
