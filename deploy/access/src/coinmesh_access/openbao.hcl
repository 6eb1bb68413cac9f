# OpenBao on one machine: raft storage, TLS, unsealed by a key stored beside it. Rendered by
# `coinmesh-vault prepare`. A production Vault needs a different seal (KMS, HSM, transit).
ui           = false
log_level    = "warn"
log_format   = "json"
api_addr     = "https://${listen}"
cluster_addr = "https://${cluster_listen}"

storage "raft" {
  path                   = "${data}"
  node_id                = "local"
  performance_multiplier = 1
}

listener "tcp" {
  address         = "${listen}"
  cluster_address = "${cluster_listen}"
  tls_cert_file   = "${tls}/current/tls.crt"
  tls_key_file    = "${tls}/current/tls.key"
  tls_min_version = "tls13"
}

# Local convenience, not protection: a user who can read the data can read this key too.
seal "static" {
  current_key_id = "local-1"
  current_key    = "file://${seal_key}"
}

# Two, because OpenBao rejects every request that no device can record.
audit "file" "first" {
  description = "First audit device"
  options {
    file_path = "${audit}-1.log"
    mode      = "0600"
  }
}

audit "file" "second" {
  description = "Second audit device"
  options {
    file_path = "${audit}-2.log"
    mode      = "0600"
  }
}

# Runs once, on empty storage: a login for `coinmesh-vault setup`; the root token is revoked after
# it.
initialize "boot" {
  request "approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/setup"
    data = {
      policy = {
        eval_type   = "string"
        eval_source = "file"
        path        = "${policy}"
      }
    }
  }
  request "role" {
    operation = "update"
    path      = "auth/approle/role/setup"
    data = {
      token_policies   = "setup"
      token_ttl        = "15m"
      token_max_ttl    = "1h"
      token_bound_cidrs = "127.0.0.1/32"
    }
  }
  request "role-id" {
    operation = "update"
    path      = "auth/approle/role/setup/role-id"
    data = {
      role_id = {
        eval_type   = "string"
        eval_source = "file"
        path        = "${login}/role-id"
      }
    }
  }
  request "secret-id" {
    operation = "update"
    path      = "auth/approle/role/setup/custom-secret-id"
    data = {
      secret_id = {
        eval_type   = "string"
        eval_source = "file"
        path        = "${login}/secret-id"
      }
    }
  }
}
