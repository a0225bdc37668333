// SPDX-License-Identifier: Apache-2.0
#include "api.hpp"

#include <httplib.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "order.hpp"
#include "penstock/outbox.hpp"
#include "penstock/uuid.hpp"
#include "serve.hpp"
#include "sql.hpp"

namespace shop {
namespace {

using nlohmann::json;

constexpr std::size_t largest_body = 1'048'576;
/// A body up to here is read to its end: a client that is answered while it still sends may see its connection break, and no
/// answer.
constexpr std::size_t largest_read = 16 * largest_body;

/// RFC 9457.
void problem(httplib::Response& response, int status, const std::string& title, const std::string& detail,
             const std::string& field = {}) {
  json body{{"type", "about:blank"}, {"title", title}, {"status", status}, {"detail", detail}};
  if (!field.empty()) body["field"] = field;
  response.status = status;
  response.set_content(body.dump(-1, ' ', false, json::error_handler_t::replace), "application/problem+json");
}

void unavailable(httplib::Response& response, const std::string& detail) {
  response.set_header("Retry-After", "1");
  problem(response, 503, "Service Unavailable", detail);
}

/// The key is a structured-field string, "…"; taken without its quotes too, as many clients send it.
std::string idempotency_key(const httplib::Request& request) {
  auto key = request.get_header_value("Idempotency-Key");
  if (key.size() >= 2 && key.front() == '"' && key.back() == '"') key = key.substr(1, key.size() - 2);
  return key;
}

/// The body, whatever its type: httplib by itself takes no more than 8 KiB of a form, which is what `curl -d` calls its bodies.
/// Nothing once it is answered with a problem.
std::optional<std::string> read_body(const httplib::Request& request, httplib::Response& response,
                                     const httplib::ContentReader& read) {
  if (request.is_multipart_form_data()) {
    read([](const httplib::MultipartFormData&) { return true; }, [](const char*, std::size_t) { return true; });
    problem(response, 415, "Unsupported Media Type",
            "the header Content-Type is multipart/form-data; send the order itself, as application/json", "Content-Type");
    return std::nullopt;
  }
  std::string body;
  std::size_t size = 0;  // of a body in chunks nothing is known before
  const bool whole = read([&](const char* data, std::size_t more) {
    size += more;
    if (size <= largest_body) body.append(data, more);
    return size <= largest_read;
  });
  if (size > largest_body || response.status == 413) {
    problem(response, 413, "Content Too Large",
            "the body is larger than " + std::to_string(largest_body) + " bytes; send a smaller order");
    return std::nullopt;
  }
  if (!whole) {
    problem(response, 400, "Bad Request", "the body ended early, or is not what its headers say; send it again");
    return std::nullopt;
  }
  return body;
}

class Api {
 public:
  Api(const Options& options, penstock::Outbox& outbox) : outbox_{outbox}, connections_{options.postgres} {}

  void place(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& read) {
    const auto body = read_body(request, response, read);
    if (!body) return;
    const auto key = idempotency_key(request);
    if (key.empty() || key.size() > 200) {
      return problem(
          response, 400, "Bad Request",
          key.empty()
              ? "the header Idempotency-Key is missing; send one that is unique to this order, and the same for every retry"
              : "the header Idempotency-Key has " + std::to_string(key.size()) + " bytes; at most 200",
          "Idempotency-Key");
    }
    if (!is_plain(key)) {
      return problem(response, 400, "Bad Request",
                     "the header Idempotency-Key is not UTF-8 without control characters; send a UUID, for example",
                     "Idempotency-Key");
    }
    Order order;
    try {
      order = parse_order(*body);
    } catch (const InvalidOrder& error) {
      return problem(response, 400, "Bad Request", error.what(), error.field.empty() ? "/" : error.field);
    }
    try {
      const auto placed = connections_.with([&](pqxx::connection& connection) { return store(connection, order, key, *body); });
      if (!placed) {
        return problem(response, 409, "Conflict",
                       "the Idempotency-Key \"" + key + "\" was used for another body; send a new key for a new order",
                       "Idempotency-Key");
      }
      outbox_.signal();
      response.status = 202;
      response.set_header("Location", "/orders/" + *placed);
      response.set_content(json{{"id", *placed}, {"reference", order.reference}}.dump(), "application/json");
    } catch (const pqxx::in_doubt_error&) {
      unavailable(response,
                  "the connection to the database broke while the order was being committed; send it again with the same "
                  "Idempotency-Key");
    } catch (const pqxx::broken_connection&) {
      unavailable(response, "the database is away, or slow; send the order again with the same Idempotency-Key");
    }
  }

  void show(const std::string& id, httplib::Response& response) {
    try {
      // What is no text was never given out as an id, and no parameter for Postgres.
      const auto body =
          is_plain(id) ? connections_.with([&](pqxx::connection& connection) { return story(connection, id); }) : std::nullopt;
      if (!body) return problem(response, 404, "Not Found", "there is no order \"" + id + "\"", "id");
      response.set_content(body->dump(-1, ' ', false, json::error_handler_t::replace), "application/json");
    } catch (const pqxx::broken_connection&) {
      unavailable(response, "the database is away");
    }
  }

  void ready(httplib::Response& response) {
    try {
      connections_.with([](pqxx::connection& connection) {
        pqxx::nontransaction tx{connection};
        return tx.exec("SELECT 1").size();
      });
      response.set_content("ready\n", "text/plain");
    } catch (const std::exception&) {
      unavailable(response, "the database is away");
    }
  }

 private:
  /// The order's id; nothing when the key belongs to another body.
  std::optional<std::string> store(pqxx::connection& connection, const Order& order, const std::string& key,
                                   const std::string& body) {
    pqxx::work tx{connection};
    const auto id = penstock::uuid7();
    const auto stored =
        run(tx,
            "INSERT INTO shop.orders (id, reference, idempotency_key, fingerprint, kind, customer, country, total, lines) "
            "VALUES ($1, $2, $3, sha256(convert_to($4, 'UTF8')), $5, NULLIF($6, ''), NULLIF($7, ''), $8::numeric, $9) "
            "ON CONFLICT (idempotency_key) DO NOTHING",
            id, order.reference, key, body, order.cancellation ? "cancellation" : "order", order.customer, order.country,
            format_money(order.total()), static_cast<int>(order.lines.size()));
    if (stored.affected_rows() == 0) {
      const auto known = run(
          tx, "SELECT id, fingerprint = sha256(convert_to($2, 'UTF8')) FROM shop.orders WHERE idempotency_key = $1", key, body);
      if (known.empty() || !known[0][1].as<bool>()) return std::nullopt;
      return known[0][0].as<std::string>();
    }
    penstock::Event placed;
    placed.id = id;
    placed.type = "shop.order.placed.v1";
    placed.subject = order.reference;
    placed.key = id;
    placed.correlation_id = id;
    placed.data = to_json(order);
    outbox_.append(tx, placed);
    tx.commit();
    return id;
  }

  /// The order, and what is written of its events: that it was placed, each attempt of each consumer, each dead letter.
  static std::optional<json> story(pqxx::connection& connection, const std::string& id) {
    pqxx::transaction<pqxx::isolation_level::repeatable_read> tx{connection};
    const auto found =
        run(tx,
            "SELECT o.reference, o.kind, o.customer, o.country, o.total, o.lines, CASE WHEN d.id IS NULL THEN o.state ELSE "
            "'dead-lettered' END AS state, coalesce(o.reason, d.last_error) AS reason, o.placed_at, o.settled_at "
            "FROM shop.orders o LEFT JOIN LATERAL (SELECT id, last_error FROM penstock.dead_letters WHERE key = o.id AND state "
            "= 'dead' AND o.settled_at IS NULL ORDER BY id LIMIT 1) d ON true WHERE o.id = $1",
            id);
    if (found.empty()) return std::nullopt;
    json body{{"id", id}};
    for (const auto& field : found[0]) {
      body[field.name()] = field.is_null() ? json{} : json(field.c_str());
    }
    body["lines"] = found[0]["lines"].as<int>();
    json story = json::array();
    story.push_back({{"at", found[0]["placed_at"].c_str()},
                     {"by", "orders-api"},
                     {"event", "shop.order.placed.v1"},
                     {"event_id", id},
                     {"outcome", "committed"}});
    for (const auto& row :
         run(tx,
             "SELECT at, consumer_group AS by, channel, partition, position, type AS event, event_id, causation_id AS "
             "caused_by, "
             "outcome, attempt, duration_ms, error FROM penstock.audit WHERE correlation_id = $1 UNION ALL "
             "SELECT created_at, 'relay', channel, partition, position, type, event_id, NULL, 'dead-lettered', "
             "jsonb_array_length(attempts), NULL, last_error FROM penstock.dead_letters WHERE key = $1 AND side = 'outbox' "
             "ORDER BY at",
             id)) {
      json hop;
      for (const auto& field : row) {
        if (field.is_null() || *field.c_str() == '\0') continue;
        const std::string name = field.name();
        const bool number = name == "partition" || name == "position" || name == "attempt" || name == "duration_ms";
        hop[name] = number ? json(field.as<std::int64_t>()) : json(field.c_str());
      }
      story.push_back(std::move(hop));
    }
    body["story"] = std::move(story);
    return body;
  }

  penstock::Outbox& outbox_;
  Connections connections_;
};

}  // namespace

void serve_api(const Options& options, penstock::Outbox& outbox, std::stop_token stop) {
  Api api{options, outbox};
  httplib::Server server;
  server.new_task_queue = [] { return new httplib::ThreadPool(8); };
  own_the_port(server);
  server.set_payload_max_length(largest_read);
  server.set_keep_alive_timeout(5);
  server.set_read_timeout(10, 0);
  server.Post("/orders", [&](const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& read) {
    api.place(request, response, read);
  });
  server.Get(R"(/orders/([^/]+))",
             [&](const httplib::Request& request, httplib::Response& response) { api.show(request.matches[1], response); });
  server.Get("/healthz",
             [](const httplib::Request&, httplib::Response& response) { response.set_content("alive\n", "text/plain"); });
  server.Get("/readyz", [&](const httplib::Request&, httplib::Response& response) { api.ready(response); });
  server.set_exception_handler([](const httplib::Request&, httplib::Response& response, const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& failure) {
      problem(response, 500, "Internal Server Error", failure.what());
    } catch (...) {
      problem(response, 500, "Internal Server Error", "an unknown failure");
    }
  });
  server.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    problem(response, response.status, "Error",
            response.status == 404
                ? request.method + " " + request.path + " is not served here; see POST /orders, GET /orders/{id}"
                : "this is no HTTP request that can be answered");
  });
  if (!server.bind_to_port(options.host, options.port)) {
    throw std::runtime_error{"cannot listen on " + options.host + ":" + std::to_string(options.port) +
                             "; is the port taken? Choose another with --port"};
  }
  serve_until(server, stop);
}

}  // namespace shop
