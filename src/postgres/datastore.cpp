// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>
#include <utility>

#include "penstock/postgres_datastore.hpp"
#include "postgres/datastore_session.hpp"
#include "postgres/schema_name.hpp"

namespace penstock {

class PostgresDatastore::Impl {
 public:
  std::string url;
  PostgresDatastoreOptions options;
};

PostgresDatastore::PostgresDatastore(std::string url, PostgresDatastoreOptions options)
    : impl_{std::make_unique<Impl>(Impl{std::move(url), std::move(options)})} {
  postgres::check_schema_name(impl_->options.schema);
  if (impl_->options.statement_timeout.count() < 0 || impl_->options.connect_timeout.count() < 0) {
    throw std::invalid_argument{"PostgresDatastoreOptions: a timeout is negative; 0 means none"};
  }
}

PostgresDatastore::~PostgresDatastore() = default;

std::unique_ptr<Datastore::Session> PostgresDatastore::session(const std::string& group) {
  return std::make_unique<postgres::PostgresSession>(impl_->url, impl_->options, group);
}

}  // namespace penstock
