// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the fragments of code in README and docs may take for granted.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <pqxx/pqxx>
#include <string>
#include <thread>
#include <vector>

#include "penstock/beacon.hpp"
#include "penstock/bulkhead.hpp"
#include "penstock/conduit.hpp"
#include "penstock/consumer.hpp"
#include "penstock/dead_letter.hpp"
#include "penstock/lane.hpp"
#include "penstock/migrate.hpp"
#include "penstock/outbox.hpp"
#include "penstock/postgres_datastore.hpp"
#include "penstock/rate_limit.hpp"
#include "penstock/relay.hpp"
#include "penstock/replay.hpp"
#include "penstock/shared_limits.hpp"
#include "penstock/testing/check_idempotent.hpp"
#include "penstock/testing/manual_clock.hpp"
#include "penstock/testing/memory_broker.hpp"
#include "penstock/testing/memory_datastore.hpp"
#include "penstock/testing/scenario.hpp"
#include "penstock/testing/scripted_provider.hpp"

// NOLINTBEGIN: names that stand for the reader's own.
using namespace std::chrono_literals;
using namespace penstock;

struct ReadersOrder {
  std::string id, customer;
};
extern ReadersOrder order;
std::string to_json(const ReadersOrder&);
Verdict fulfil(const Message&, Context&);
extern std::string database;
extern pqxx::connection connection;
extern Outbox outbox;
extern PostgresDatastore datastore;
extern Conduit conduit;
extern Lane lane;
extern Beacon beacon;
extern std::stop_token stop_token;
// NOLINTEND
