// SPDX-License-Identifier: Apache-2.0
// Each component is used so far as it goes without a server, so that it is linked.
#include <penstock/consumer.hpp>
#include <penstock/testing/memory_broker.hpp>

#include <iostream>
#include <string>

#ifdef HAVE_POSTGRES
#include <penstock/outbox.hpp>
#endif
#ifdef HAVE_CONDUIT
#include <penstock/conduit.hpp>
#endif
#ifdef HAVE_LANE
#include <penstock/lane.hpp>
#endif
#ifdef HAVE_BEACON
#include <penstock/beacon.hpp>
#endif

int main() {
  penstock::testing::MemoryBroker broker;
  broker.declare("orders");
  std::string made = broker.channel("orders").backend;
#ifdef HAVE_POSTGRES
  const penstock::Outbox outbox{"postgresql://127.0.0.1:1/none", {.source = "/user"}};
  made += " postgres";
#endif
#ifdef HAVE_CONDUIT
  penstock::Conduit conduit{{.bootstrap_servers = "127.0.0.1:1"}};
  made += ' ' + conduit.channel("orders").backend;
#endif
#ifdef HAVE_LANE
  penstock::Lane lane{{.url = "amqp://guest:guest@127.0.0.1:1/"}};
  made += ' ' + lane.channel("orders").backend;
#endif
#ifdef HAVE_BEACON
  penstock::Beacon beacon{{.url = "nats://127.0.0.1:1"}};
  made += ' ' + beacon.channel("orders").backend;
#endif
  std::cout << made << '\n';
  return made.empty() ? 1 : 0;
}
