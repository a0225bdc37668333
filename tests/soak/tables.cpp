// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "penstock/dead_letter.hpp"
#include "penstock/migrate.hpp"
#include "penstock/outbox.hpp"
#include "soak.hpp"

namespace soak {

using namespace std::chrono_literals;

std::uint64_t mix(std::uint64_t seed, const std::string& text) {
  // FNV-1a, then the finaliser of splitmix64, so that neighbours have nothing in common.
  std::uint64_t value = 14695981039346656037ULL ^ (seed * 0x9e3779b97f4a7c15ULL);
  for (const char letter : text) value = (value ^ static_cast<unsigned char>(letter)) * 1099511628211ULL;
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31U);
}

std::string to_text(const Body& body, std::uint64_t noise) {
  return std::to_string(body.number) + (body.fatal ? " fatal" : " fine") + (body.fatal_follow ? " fatal " : " fine ") +
         std::to_string(noise);
}

Body parse(std::string_view text) {
  Body body;
  const auto* rest = std::from_chars(text.data(), text.data() + text.size(), body.number).ptr;
  const auto flags = text.substr(static_cast<std::size_t>(rest - text.data()));
  if (flags.rfind(" f", 0) != 0) throw std::runtime_error{"no body of the soak: " + std::string{text}};
  body.fatal = flags.rfind(" fatal", 0) == 0;
  body.fatal_follow = flags.find(" fatal ", body.fatal ? 6 : 5) != std::string_view::npos;
  return body;
}

std::string witness(const Settings& settings, const std::string& channel) {
  return settings.backend == "rabbitmq" ? channel + "-witness" : channel;
}

void create_tables(const Settings& settings) {
  penstock::migrate(settings.postgres);
  pqxx::connection connection{settings.postgres};
  pqxx::work tx{connection};
  tx.exec(R"(
    CREATE SCHEMA soak;
    -- The business: an aggregate's row is the lock under which its events are numbered and appended.
    CREATE TABLE soak.aggregates (key text PRIMARY KEY, events int NOT NULL) WITH (fillfactor = 50);
    -- What was committed, in the same transaction; only ever inserted. This is what the oracle replays.
    CREATE TABLE soak.input (key text, n int, event_id text NOT NULL, body text NOT NULL, fatal boolean NOT NULL,
                             fatal_follow boolean NOT NULL, PRIMARY KEY (key, n));
    -- The effect: a count and a hash that is another one when something is lost, doubled or out of order.
    CREATE TABLE soak.state (grp text, key text, count int NOT NULL, chain text NOT NULL, PRIMARY KEY (grp, key))
      WITH (fillfactor = 50);
    -- And each one by itself, with its place in its key; nothing here keeps a double out.
    CREATE TABLE soak.effects (grp text, key text, n int, place int, body text);
    CREATE INDEX ON soak.effects (grp, key, n);
    CREATE FUNCTION soak.link(chain text, body text) RETURNS text LANGUAGE sql IMMUTABLE
      AS $$ SELECT md5(chain || '/' || body) $$;
    CREATE AGGREGATE soak.chain(text) (sfunc = soak.link, stype = text, initcond = '');)");
  tx.commit();
  if (settings.broker.empty()) return;
  std::vector<std::string> channels;
  for (const auto& channel : {input, followed}) {
    channels.push_back(channel);
    channels.push_back(penstock::dead_channel(channel));
    if (witness(settings, channel) != channel) channels.push_back(witness(settings, channel));
  }
  connect(settings, nullptr)->declare(channels);
}

/// Whether the relays have settled all that was appended, for each of their cursors.
bool published(const Settings& settings, std::string& left) {
  penstock::Outbox outbox{settings.postgres, {.source = "/soak/writer"}};
  pqxx::connection connection{settings.postgres};
  pqxx::nontransaction tx{connection};
  for (const auto& row : tx.exec("SELECT name FROM penstock.cursors")) {
    const auto name = row[0].as<std::string>();
    const auto backlog = outbox.cursor(name, {"soak.*"})->backlog();
    if (backlog.events == 0) continue;
    left = std::to_string(backlog.events) + (backlog.exact ? "" : " or so") + " to be published by " + name;
    return false;
  }
  return true;
}

bool drained(const Settings& settings) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{settings.within};
  std::string left;
  auto said = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() < deadline) {
    try {
      pqxx::connection connection{settings.postgres};
      pqxx::nontransaction tx{connection};
      const auto row = tx.exec(R"(
        WITH dead AS (SELECT consumer_group AS grp, count(*) AS n FROM penstock.dead_letters
                      WHERE side = 'consumer' AND state = 'dead' GROUP BY 1),
             done AS (SELECT grp, count(DISTINCT (key, n)) AS n FROM soak.effects GROUP BY 1)
        SELECT (SELECT count(*) FROM soak.input) - coalesce((SELECT n FROM done WHERE grp = 'apply'), 0)
                 - coalesce((SELECT n FROM dead WHERE grp = 'apply'), 0),
               coalesce((SELECT n FROM done WHERE grp = 'apply'), 0) - coalesce((SELECT n FROM done WHERE grp = 'follow'), 0)
                 - coalesce((SELECT n FROM dead WHERE grp = 'follow'), 0),
               (SELECT count(*) FROM penstock.parked), (SELECT count(*) FROM soak.input))")[0];
      left = row[0].as<std::string>() + " of " + row[3].as<std::string>() + " for apply, " + row[1].as<std::string>() +
             " for follow, " + row[2].as<std::string>() + " parked";
      if (row[0].as<long>() <= 0 && row[1].as<long>() <= 0 && row[2].as<long>() == 0 && published(settings, left)) return true;
      if (std::chrono::steady_clock::now() > said + 10s) {
        said = std::chrono::steady_clock::now();
        std::cerr << "soak: left to do: " << left << "\n";
      }
    } catch (const std::exception& error) {
      left = error.what();
    }
    std::this_thread::sleep_for(300ms);
  }
  std::cerr << "soak: not drained after " << settings.within << " s: " << left << "\n";
  return false;
}

}  // namespace soak
