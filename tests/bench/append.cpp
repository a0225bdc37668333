// SPDX-License-Identifier: Apache-2.0
// An event beside the state change it tells of: Outbox::append against the INSERT that one would write by hand.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "payload.hpp"
#include "penstock/outbox.hpp"
#include "pg.hpp"
#include "works.hpp"

namespace penstock::bench {
namespace {

constexpr int kClients = 8;
constexpr std::size_t kSpan = 100;

const std::string kOrders = "CREATE TABLE @.orders (id bigint PRIMARY KEY, customer text NOT NULL, state text NOT NULL)";
const std::string kEvents =
    "CREATE TABLE @.events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id text NOT NULL, source text NOT NULL, "
    "type text NOT NULL, key text, content_type text, time timestamptz NOT NULL DEFAULT now(), data bytea)";

std::string in_schema(std::string sql, const Schema& schema) {
  for (auto at = sql.find('@'); at != std::string::npos; at = sql.find('@')) sql.replace(at, 1, schema.name());
  return sql;
}

Event unnamed_event(std::size_t i) { return {.type = kType, .key = key_of(i), .data = payload_of(i)}; }

class Appender {
 public:
  explicit Appender(const Config& config) : config_{config} {}

  /// The state change, and whatever `events` adds to its transaction.
  using AddEvents = std::function<void(pqxx::work& tx, const Schema& schema, std::size_t i)>;

  Samples transactions(Schema::Kind kind, double full, double scale, std::size_t events_each, const char* event_table,
                       const std::function<AddEvents(const Schema&)>& make) const {
    const Schema schema{config_.postgres, kind};
    schema.execute(in_schema(kOrders, schema));
    if (kind == Schema::Kind::empty) schema.execute(in_schema(kEvents, schema));
    const std::size_t total = config_.events(full, scale);
    const std::string insert = in_schema("INSERT INTO @.orders (id, customer, state) VALUES ($1, $2, 'placed')", schema);
    const AddEvents add = make(schema);
    const double seconds = with_clients(config_.postgres, kClients, total, [&](pqxx::connection& connection, std::size_t i) {
      pqxx::work tx{connection};
      run(tx, insert, static_cast<std::int64_t>(i), "customer-" + std::to_string(i % 977));
      if (add) add(tx, schema, i);
      tx.commit();
    });
    check_count("orders", total, schema.count("orders"));
    check_count("events", total * events_each, events_each == 0 ? 0 : schema.count(event_table));
    return rate(total * (events_each == 0 ? 1 : events_each), seconds);
  }

  Samples ours(double full, double scale, std::size_t span) const {
    return transactions(Schema::Kind::penstock, full, scale, span, "outbox", [&](const Schema& schema) -> AddEvents {
      auto outbox = std::make_shared<Outbox>(config_.postgres, OutboxOptions{.schema = schema.name(), .source = kSource});
      if (span == 1) {
        return [outbox](pqxx::work& tx, const Schema&, std::size_t i) { outbox->append(tx, unnamed_event(i)); };
      }
      return [outbox, span](pqxx::work& tx, const Schema&, std::size_t i) {
        std::vector<Event> events;
        events.reserve(span);
        for (std::size_t n = 0; n < span; ++n) events.push_back(unnamed_event(i * span + n));
        outbox->append(tx, events);
      };
    });
  }

  Samples by_hand(double full, double scale) const {
    return transactions(Schema::Kind::empty, full, scale, 1, "events", [](const Schema& schema) -> AddEvents {
      const std::string insert = in_schema(
          "INSERT INTO @.events (event_id, source, type, key, content_type, data) VALUES ($1, $2, $3, $4, $5, $6::bytea)",
          schema);
      return [insert](pqxx::work& tx, const Schema&, std::size_t i) {
        run(tx, insert, id_of(i), kSource, kType, key_of(i), kContentType, payload_of(i));
      };
    });
  }

  Samples many_by_hand(double full, double scale, std::size_t span) const {
    return transactions(Schema::Kind::empty, full, scale, span, "events", [span](const Schema& schema) -> AddEvents {
      const std::string insert =
          in_schema("INSERT INTO @.events (event_id, source, type, key, content_type, data) VALUES ", schema);
      return [insert, span](pqxx::work& tx, const Schema&, std::size_t i) {
        std::string sql = insert;
        for (std::size_t n = i * span; n < (i + 1) * span; ++n) {
          sql += n == i * span ? "(" : ",(";
          sql += tx.quote(id_of(n)) + "," + tx.quote(kSource) + "," + tx.quote(kType) + "," + tx.quote(key_of(n)) + "," +
                 tx.quote(kContentType) + "," + tx.quote(payload_of(n)) + ")";
        }
        tx.exec(sql);
      };
    });
  }

  Samples state_alone(double full, double scale) const {
    return transactions(Schema::Kind::empty, full, scale, 0, "", [](const Schema&) { return AddEvents{}; });
  }

 private:
  Config config_;
};

}  // namespace

std::vector<Work> append_works(const Config& config) {
  const Appender appender{config};
  constexpr double kSingles = 16'000;
  constexpr double kSpans = 1'000;
  const Json settings{{"payload_bytes", kPayloadBytes},
                      {"clients", kClients},
                      {"events_per_transaction", 1},
                      {"transactions", config.events(kSingles, 1)},
                      {"fsync", "on"},
                      {"synchronous_commit", "on"}};
  std::vector<Work> works;
  Work one{.name = "append.one",
           .metrics = {{.unit = "events/s", .goal = Goal{Goal::Kind::ratio_at_least, 0.97}}},
           .settings = settings};
  one.settings["reference"] = "two INSERTs by hand, libpqxx";
  one.ours = [=](double scale) { return appender.ours(kSingles, scale, 1); };
  one.reference = [=](double scale) { return appender.by_hand(kSingles, scale); };
  works.push_back(std::move(one));

  Work span{.name = "append.span100",
            .metrics = {{.unit = "events/s", .goal = Goal{Goal::Kind::ratio_at_least, 0.9}}},
            .settings = settings};
  span.settings["events_per_transaction"] = kSpan;
  span.settings["transactions"] = config.events(kSpans, 1);
  span.settings["reference"] = "one INSERT with 100 rows by hand, libpqxx";
  span.ours = [=](double scale) { return appender.ours(kSpans, scale, kSpan); };
  span.reference = [=](double scale) { return appender.many_by_hand(kSpans, scale, kSpan); };
  works.push_back(std::move(span));

  Work beside{.name = "append.beside", .metrics = {{.unit = "transactions/s"}}, .settings = settings};
  beside.settings["reference"] = "the business INSERT alone, without any event";
  beside.ours = [=](double scale) { return appender.ours(kSingles, scale, 1); };
  beside.reference = [=](double scale) { return appender.state_alone(kSingles, scale); };
  works.push_back(std::move(beside));
  return works;
}

}  // namespace penstock::bench
