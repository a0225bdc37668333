// SPDX-License-Identifier: Apache-2.0
// Random schedules of writers' transactions beside a relay's reading. One thread decides what happens next, so that a seed
// repeats it; a schedule that fails is made as short as it can be and printed as SQL.
//
// PENSTOCK_SCHEDULES says how many (see scripts/schedules), PENSTOCK_SEED the first.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "penstock/outbox.hpp"
#include "postgres/cursor.hpp"
#include "postgres/pqxx_compat.hpp"
#include "support/postgres.hpp"

namespace penstock {
namespace {

using test::postgres_url;
using test::Schema;

constexpr std::size_t kWriters = 8;
constexpr unsigned kKeys = 4;
constexpr int kSteps = 60;

/// An event as the oracle knows it: its key, and its number, which is its id.
struct Told {
  int key = 0;
  int number = 0;
};

/// One thing that happens. What cannot happen when its turn comes (to write a key that another has locked, say) does not, so
/// that any part of a schedule is a schedule.
struct Step {
  enum class Kind : std::uint8_t { write, touch, savepoint, rollback_to, commit, rollback, prepare, read, settle, stop, kill };
  Kind kind = Kind::read;
  std::size_t writer = 0;
  int key = 0;
  unsigned amount = 1;  // of events, or of what is read or settled
  unsigned payload = 0;
  bool hidden = false;  // of a type that the relay does not carry
};

std::vector<Step> schedule_of(unsigned seed) {
  using Kind = Step::Kind;
  constexpr std::array kinds{Kind::write,  Kind::write,  Kind::write,    Kind::write,     Kind::touch,       Kind::commit,
                             Kind::commit, Kind::commit, Kind::rollback, Kind::savepoint, Kind::rollback_to, Kind::prepare,
                             Kind::read,   Kind::read,   Kind::read,     Kind::read,      Kind::read,        Kind::read,
                             Kind::settle, Kind::settle, Kind::settle,   Kind::stop,      Kind::kill};
  std::mt19937 random{seed};
  std::vector<Step> steps;
  for (int i = 0; i < kSteps; ++i) {
    Step step;
    step.kind = kinds.at(random() % kinds.size());
    step.writer = random() % kWriters;
    step.key = static_cast<int>(random() % kKeys);
    step.amount = 1 + static_cast<unsigned>(random() % 4);
    step.payload = static_cast<unsigned>(random() % 30);
    step.hidden = random() % 8 == 0;
    steps.push_back(step);
  }
  return steps;
}

/// What reads the log. `read` gives the numbers of some events, none when there are no more.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual std::vector<int> read(std::size_t max) = 0;
  virtual void settle(std::size_t count) { static_cast<void>(count); }
  /// Ends it and begins anew from what is stored. Says whether it may repeat what was settled.
  virtual bool restart(bool killed) {
    static_cast<void>(killed);
    return false;
  }
};

class OurReader final : public Reader {
 public:
  OurReader(const Schema& schema, pqxx::connection& admin, unsigned seed) : schema_{schema}, admin_{admin} {
    // Small enough for windows of a few rows to be large ones, and for walks to take several steps.
    std::mt19937 random{seed};
    settings_.url = postgres_url();
    settings_.schema = schema.name();
    settings_.limits = {.small_window = 1 + random() % 3,
                        .bytes = 1 + static_cast<std::int64_t>(random() % 40),
                        .chunk = 1 + static_cast<std::int64_t>(random() % 6),
                        .measured = static_cast<std::int64_t>(random() % 3)};
    open();
  }

  std::vector<int> read(std::size_t max) override {
    std::vector<int> numbers;
    do {  // on a machine that is slow it may return before it has found what there is
      for (const auto& entry : cursor_->read(max)) {
        EXPECT_EQ(entry.sequence, ++read_);
        numbers.push_back(std::stoi(entry.event.id));
      }
    } while (numbers.empty() && !cursor_->at_end());
    return numbers;
  }
  void settle(std::size_t count) override {
    settled_ = std::min(read_, settled_ + count);
    cursor_->checkpoint(settled_);
    cursor_->park({}, "c");  // writes it now, as time does not pass here
  }
  bool restart(bool killed) override {
    if (killed) {
      cursor_.reset();
      pqxx::nontransaction tx{admin_};
      for (const auto* table : {"cursors", "cursor_log"}) {  // the lease runs out
        tx.exec("UPDATE " + schema_.table(table) + " SET lease_until = '-infinity'");
      }
    } else {
      cursor_->release();
    }
    open();
    return killed;
  }

 private:
  void open() {
    cursor_ = std::make_unique<postgres::PostgresCursor>(settings_, "c", std::vector<std::string>{"seen"});
    EXPECT_TRUE(cursor_->acquire());
    read_ = settled_ = 0;
  }

  const Schema& schema_;
  pqxx::connection& admin_;
  postgres::CursorSettings settings_{};
  std::unique_ptr<postgres::PostgresCursor> cursor_{};
  std::uint64_t read_ = 0;
  std::uint64_t settled_ = 0;
};

/// Remembers the largest id it has seen.
class ReaderById final : public Reader {
 public:
  explicit ReaderById(const Schema& schema) : log_{schema.table("outbox")} {}
  std::vector<int> read(std::size_t max) override {
    std::vector<int> numbers;
    pqxx::nontransaction tx{connection_};
    for (const auto& row :
         postgres::run(tx, "SELECT id, event_id FROM " + log_ + " WHERE id > $1 AND type = 'seen' ORDER BY id LIMIT $2::int",
                       last_, static_cast<int>(max))) {
      last_ = row[0].as<std::int64_t>();
      numbers.push_back(row[1].as<int>());
    }
    return numbers;
  }

 private:
  pqxx::connection connection_{postgres_url()};
  std::string log_;
  std::int64_t last_ = 0;
};

/// Orders by transaction and stays below the oldest one that is open.
class ReaderByTransaction final : public Reader {
 public:
  explicit ReaderByTransaction(const Schema& schema) : log_{schema.table("outbox")} {}
  std::vector<int> read(std::size_t max) override {
    std::vector<int> numbers;
    pqxx::nontransaction tx{connection_};
    for (const auto& row : postgres::run(tx,
                                         "SELECT txid::text, id, event_id FROM " + log_ +
                                             " WHERE (txid, id) > ($1::xid8, $2::bigint) AND type = 'seen'"
                                             " AND txid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY txid, id"
                                             " LIMIT $3::int",
                                         txid_, id_, static_cast<int>(max))) {
      txid_ = row[0].as<std::string>();
      id_ = row[1].as<std::int64_t>();
      numbers.push_back(row[2].as<int>());
    }
    return numbers;
  }

 private:
  pqxx::connection connection_{postgres_url()};
  std::string log_;
  std::string txid_ = "0";
  std::int64_t id_ = 0;
};

/// Two workers that claim rows and delete them once they are delivered; the second is the faster.
class ReaderByClaim final : public Reader {
 public:
  explicit ReaderByClaim(const Schema& schema) : log_{schema.table("outbox")} {}
  std::vector<int> read(std::size_t max) override {
    pqxx::work slow{slow_};
    const auto first = claim(slow, max);
    pqxx::work fast{fast_};
    auto numbers = claim(fast, max);
    fast.commit();
    slow.commit();
    numbers.insert(numbers.end(), first.begin(), first.end());
    return numbers;
  }

 private:
  std::vector<int> claim(pqxx::transaction_base& tx, std::size_t max) const {
    std::vector<std::pair<std::int64_t, int>> rows;
    for (const auto& row : postgres::run(tx,
                                         "DELETE FROM " + log_ + " WHERE id IN (SELECT id FROM " + log_ +
                                             " WHERE type = 'seen' ORDER BY id LIMIT $1::int FOR UPDATE SKIP LOCKED)"
                                             " RETURNING id, event_id",
                                         static_cast<int>(max))) {
      rows.emplace_back(row[0].as<std::int64_t>(), row[1].as<int>());
    }
    std::sort(rows.begin(), rows.end());
    std::vector<int> numbers;
    for (const auto& [id, number] : rows) numbers.push_back(number);
    return numbers;
  }

  pqxx::connection slow_{postgres_url()};
  pqxx::connection fast_{postgres_url()};
  std::string log_;
};

/// What was committed, in the order of the commits of each key, and what the reader has made of it.
class Oracle {
 public:
  void committed(const Told& event) {
    place_[event.number] = {event.key, order_[event.key].size()};
    order_[event.key].push_back(event.number);
  }
  /// Says what is wrong with this delivery, if anything.
  std::optional<std::string> delivered(int number) {
    const auto found = place_.find(number);
    if (found == place_.end()) return "event " + std::to_string(number) + " was never committed, or not for the relay";
    const auto [key, place] = found->second;
    State& state = states_[key];
    const std::string what = "event " + std::to_string(number) + " of key " + std::to_string(key);
    if (state.next ? place != *state.next : place > state.delivered || place < state.settled) {
      return what + " is number " + std::to_string(place) + " of its key, but " +
             (state.next ? "number " + std::to_string(*state.next)
                         : std::to_string(state.settled) + " to " + std::to_string(state.delivered)) +
             " was due";
    }
    state.next = place + 1;
    state.delivered = std::max(state.delivered, place + 1);
    unsettled_.push_back(number);
    return std::nullopt;
  }
  void settled(std::size_t count) {
    for (; count > 0 && !unsettled_.empty(); --count, unsettled_.pop_front()) {
      const auto [key, place] = place_.at(unsettled_.front());
      states_[key].settled = place + 1;
    }
  }
  void restarted(bool may_repeat_settled) {
    unsettled_.clear();
    for (auto& [key, state] : states_) {
      state.next.reset();
      if (may_repeat_settled) state.settled = 0;
    }
  }
  [[nodiscard]] std::optional<std::string> missing() const {
    for (const auto& [key, numbers] : order_) {
      const auto state = states_.find(key);
      const std::size_t delivered = state == states_.end() ? 0 : state->second.delivered;
      if (delivered < numbers.size()) {
        return "key " + std::to_string(key) + " ends at " + std::to_string(delivered) + " of " +
               std::to_string(numbers.size()) + " events: " + std::to_string(numbers[delivered]) + " is lost";
      }
    }
    return std::nullopt;
  }

 private:
  struct State {
    std::size_t settled = 0;
    std::size_t delivered = 0;
    std::optional<std::size_t> next{};  // none since a restart
  };
  std::map<int, std::pair<int, std::size_t>> place_;
  std::map<int, std::vector<int>> order_;
  std::map<int, State> states_;
  std::deque<int> unsettled_;
};

class Writer {
 public:
  /// The transaction, begun when it was not.
  pqxx::transaction_base& tx() {
    if (!tx_) {
      tx_ = std::make_unique<pqxx::nontransaction>(connection_);
      exec("BEGIN");
    }
    return *tx_;
  }
  void exec(const std::string& sql) { tx_->exec(sql); }
  [[nodiscard]] bool open() const { return tx_ != nullptr && prepared_.empty(); }
  [[nodiscard]] bool holds(int key) const {
    return std::any_of(levels_.begin(), levels_.end(), [&](const Level& level) { return level.keys.count(key) != 0; });
  }
  void wrote(int key, const std::vector<Told>& events) {
    if (levels_.empty()) levels_.emplace_back();
    levels_.back().keys.insert(key);
    levels_.back().events.insert(levels_.back().events.end(), events.begin(), events.end());
  }
  std::string savepoint() {
    if (levels_.empty()) levels_.emplace_back();
    levels_.emplace_back();
    return "s" + std::to_string(levels_.size());
  }
  /// Its name, or nothing where there is none.
  std::string back_to_savepoint() {
    if (levels_.size() < 2) return {};
    levels_.back() = {};
    return "s" + std::to_string(levels_.size());
  }
  void prepared(std::string name) { prepared_ = std::move(name); }
  [[nodiscard]] const std::string& prepared() const { return prepared_; }
  std::vector<Told> ended() {
    std::vector<Told> events;
    for (const Level& level : levels_) events.insert(events.end(), level.events.begin(), level.events.end());
    levels_.clear();
    prepared_.clear();
    tx_.reset();
    return events;
  }

 private:
  struct Level {
    std::set<int> keys{};
    std::vector<Told> events{};
  };
  pqxx::connection connection_{postgres_url()};
  std::unique_ptr<pqxx::nontransaction> tx_{};
  std::vector<Level> levels_{};
  std::string prepared_{};
};

/// The schema and connections that all schedules share.
class Stage {
 public:
  Stage() {
    schema_.exec("CREATE TABLE " + schema_.table("aggregates") + "(id int PRIMARY KEY, version int NOT NULL DEFAULT 0)");
    schema_.exec("INSERT INTO " + schema_.table("aggregates") + " SELECT generate_series(0, " + std::to_string(kKeys - 1) +
                 ")");
  }
  const Schema& schema() const { return schema_; }
  std::deque<Writer>& writers() { return writers_; }
  Outbox& outbox() { return outbox_; }
  pqxx::connection& admin() { return admin_; }
  void clear() {
    pqxx::nontransaction tx{admin_};
    const std::string tables[] = {schema_.table("outbox"), schema_.table("cursors"), schema_.table("cursor_log")};
    if (++cleared_ % 5 == 0) {  // to truncate takes much longer
      tx.exec("TRUNCATE " + tables[0] + ", " + tables[1] + ", " + tables[2]);
      return;
    }
    for (const auto& table : tables) tx.exec("DELETE FROM " + table);
  }
  std::string next_prepared() { return schema_.name() + "_" + std::to_string(++prepared_); }

 private:
  Schema schema_{"schedules"};
  Outbox outbox_{postgres_url(), OutboxOptions{.schema = schema_.name()}};
  std::deque<Writer> writers_{kWriters};
  pqxx::connection admin_{postgres_url()};
  int prepared_ = 0;
  int cleared_ = 0;
};

/// Plays a schedule; `sql` is what happened.
class Play {
 public:
  Play(Stage& stage, Reader& reader) : stage_{stage}, reader_{reader} {}

  std::optional<std::string> run(const std::vector<Step>& steps) {
    for (const Step& step : steps) {
      play(step);
      if (wrong_) break;
    }
    for (std::size_t i = 0; i < kWriters; ++i) end(i, true);
    while (!wrong_ && read(50) > 0) {
    }
    return wrong_ ? wrong_ : oracle_.missing();
  }
  [[nodiscard]] const std::vector<std::string>& sql() const { return sql_; }

 private:
  void play(const Step& step) {
    using Kind = Step::Kind;
    Writer& writer = stage_.writers()[step.writer];
    switch (step.kind) {
      case Kind::write: write(step); return;
      case Kind::touch:
        if (!writer.prepared().empty()) return;
        begin(step.writer);
        say(step.writer, "SELECT pg_current_xact_id()");
        return;
      case Kind::savepoint:
        if (writer.open()) say(step.writer, "SAVEPOINT " + writer.savepoint());
        return;
      case Kind::rollback_to:
        if (!writer.open()) return;
        if (const auto name = writer.back_to_savepoint(); !name.empty()) say(step.writer, "ROLLBACK TO " + name);
        return;
      case Kind::commit: end(step.writer, true); return;
      case Kind::rollback: end(step.writer, false); return;
      case Kind::prepare:
        if (!writer.open()) return;
        writer.prepared(stage_.next_prepared());
        say(step.writer, "PREPARE TRANSACTION '" + writer.prepared() + "'");
        return;
      case Kind::read: read(step.amount); return;
      case Kind::settle:
        sql_.push_back("-- the relay settles " + std::to_string(step.amount));
        reader_.settle(step.amount);
        oracle_.settled(step.amount);
        return;
      case Kind::stop:
      case Kind::kill:
        sql_.push_back(step.kind == Kind::kill ? "-- the relay is killed, another begins"
                                               : "-- the relay stops and begins again");
        oracle_.restarted(reader_.restart(step.kind == Kind::kill));
    }
  }

  void begin(std::size_t writer) {
    if (!stage_.writers()[writer].open()) {
      static_cast<void>(stage_.writers()[writer].tx());
      sql_.push_back(label(writer) + "BEGIN");
    }
  }
  void write(const Step& step) {
    Writer& writer = stage_.writers()[step.writer];
    if (!writer.prepared().empty()) return;
    for (const Writer& other : stage_.writers()) {
      if (&other != &writer && other.holds(step.key)) return;  // it would wait for the key's lock
    }
    begin(step.writer);
    say(step.writer,
        "UPDATE " + stage_.schema().table("aggregates") + " SET version = version + 1 WHERE id = " + std::to_string(step.key));
    std::vector<Event> events;
    std::vector<Told> told;
    for (unsigned i = 0; i < step.amount; ++i) {
      const int number = ++next_;
      events.push_back({.id = std::to_string(number),
                        .source = "/s",
                        .type = step.hidden ? "hidden" : "seen",
                        .key = std::to_string(step.key),
                        .data = std::string(step.payload, 'x'),
                        .content_type = "text/plain"});
      if (!step.hidden) told.push_back({step.key, number});
      sql_.push_back(label(step.writer) + "SELECT penstock.append('" + events.back().type + "', 'x'::text, '" +
                     events.back().key + "', '/s', event_id => '" + events.back().id + "')");
    }
    stage_.outbox().append(writer.tx(), events);
    writer.wrote(step.key, told);
  }
  void end(std::size_t index, bool commit) {
    Writer& writer = stage_.writers()[index];
    const std::string word = commit ? "COMMIT" : "ROLLBACK";
    if (!writer.prepared().empty()) {
      say(index, word + " PREPARED '" + writer.prepared() + "'");
    } else if (writer.open()) {
      say(index, word);
    } else {
      return;
    }
    for (const Told& event : writer.ended()) {
      if (commit) oracle_.committed(event);
    }
  }
  std::size_t read(std::size_t max) {
    const auto numbers = reader_.read(max);
    std::string line = "-- the relay reads";
    for (const int number : numbers) {
      line += " " + std::to_string(number);
      if (!wrong_) wrong_ = oracle_.delivered(number);
    }
    sql_.push_back(line);
    return numbers.size();
  }
  void say(std::size_t writer, const std::string& sql) {
    sql_.push_back(label(writer) + sql);
    stage_.writers()[writer].exec(sql);
  }
  static std::string label(std::size_t writer) { return "/* " + std::to_string(writer) + " */ "; }

  Stage& stage_;
  Reader& reader_;
  Oracle oracle_;
  std::optional<std::string> wrong_{};
  std::vector<std::string> sql_{};
  int next_ = 0;
};

struct Result {
  std::optional<std::string> wrong{};
  std::vector<std::string> sql{};
};

template <class MakeReader>
Result play(Stage& stage, const std::vector<Step>& steps, const MakeReader& make) {
  Result result;
  {
    const auto reader = make();
    Play game{stage, *reader};
    result.wrong = game.run(steps);
    result.sql = game.sql();
  }
  stage.clear();
  return result;
}

/// Leaves out what the failure does not need.
template <class MakeReader>
std::vector<Step> shrunk(Stage& stage, std::vector<Step> steps, const MakeReader& make) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{30};
  for (std::size_t size = steps.size() / 2; size > 0; size /= 2) {
    for (std::size_t at = 0; at < steps.size() && std::chrono::steady_clock::now() < until;) {
      auto fewer = steps;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(at),
                  fewer.begin() + static_cast<std::ptrdiff_t>(std::min(at + size, fewer.size())));
      if (play(stage, fewer, make).wrong) {
        steps = std::move(fewer);
      } else {
        at += size;
      }
    }
  }
  return steps;
}

template <class MakeReader>
std::string story(Stage& stage, unsigned seed, const std::vector<Step>& steps, const MakeReader& make) {
  const auto result = play(stage, shrunk(stage, steps, make), make);
  std::string text = "seed " + std::to_string(seed) + ": " + result.wrong.value_or("does not fail any more") + "\n";
  for (const auto& line : result.sql) text += line + ";\n";
  return text;
}

unsigned number_from(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

/// What is visible when is the same without waiting for the disk, and a schedule takes a tenth of the time.
class Schedules : public testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_EQ(::setenv("PGOPTIONS", "-c synchronous_commit=off", 1), 0); }
};

TEST_F(Schedules, Rule2_NothingIsLostNorRepeatedAndKeysStayInOrder) {
  // Beside everything, a transaction that never ends.
  pqxx::connection foreign{postgres_url()};
  pqxx::work open{foreign};
  open.exec("SELECT pg_current_xact_id()");
  Stage stage;
  const unsigned count = number_from("PENSTOCK_SCHEDULES", 500);
  const unsigned first = number_from("PENSTOCK_SEED", 1);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned seed = first + i;
    if (count > 1000 && i % 1000 == 0) std::cout << i << " of " << count << " schedules\n" << std::flush;
    const auto make = [&] { return std::make_unique<OurReader>(stage.schema(), stage.admin(), seed); };
    const auto steps = schedule_of(seed);
    if (const auto result = play(stage, steps, make); result.wrong) {
      FAIL() << *result.wrong << "\n" << story(stage, seed, steps, make);
    }
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

/// The same schedules find what is wrong with the readers that come to mind first, which shows that they would find it in ours.
template <class NaiveReader>
void expect_found_out(const std::string& fault) {
  Stage stage;
  const auto make = [&] { return std::make_unique<NaiveReader>(stage.schema()); };
  for (unsigned seed = 1; seed <= 100; ++seed) {
    const auto steps = schedule_of(seed);
    const auto result = play(stage, steps, make);
    if (!result.wrong) continue;
    const auto shortest = shrunk(stage, steps, make);
    EXPECT_LE(shortest.size(), 12U) << story(stage, seed, steps, make);
    EXPECT_NE(play(stage, shortest, make).wrong.value_or("").find(fault), std::string::npos)
        << story(stage, seed, shortest, make);
    return;
  }
  ADD_FAILURE() << "100 schedules did not show it";
}
TEST_F(Schedules, Rule2_FindOutWhoRemembersTheLargestId) { expect_found_out<ReaderById>(""); }
// Beside other tests' transactions it may show that it waits for them, before it shows a wrong order.
TEST_F(Schedules, Rule2_FindOutWhoOrdersByTransaction) { expect_found_out<ReaderByTransaction>(""); }
TEST_F(Schedules, Rule2_FindOutWhoClaimsRows) { expect_found_out<ReaderByClaim>("was due"); }

}  // namespace
}  // namespace penstock
