-- Who may send to ORTHANC1 where `senders` of ddwd.yaml has a list: the AE title and the address of each image's sender must be in one
-- entry. Loaded then only, and last, so that this is the filter that counts. The rules are made by ddwd/provisioning/sender_acl.py.
-- An error, and nothing else, makes Orthanc answer 0xA700; the answer `false` would drop the image with Success.

local rules = ((GetOrthancConfiguration() or {})['Ddwd'] or {})['Senders']

local FIRST_HERE, LAST_HERE = 127 * 2 ^ 24, 128 * 2 ^ 24 - 1 -- this machine: only the AE title counts

-- "MR*" as a pattern of Lua.
local function as_pattern(title)
  local escaped = title:gsub('[%^%$%(%)%%%.%[%]%+%-]', '%%%0')
  return '^' .. escaped:gsub('%*', '.*'):gsub('%?', '.') .. '$'
end

for _, rule in ipairs(rules) do
  rule.Pattern = as_pattern(rule.Aet)
end

local function number_of(address)
  local a, b, c, d = address:match('^(%d+)%.(%d+)%.(%d+)%.(%d+)$')
  return a and ((tonumber(a) * 256 + tonumber(b)) * 256 + tonumber(c)) * 256 + tonumber(d)
end

local function admitted(title, address)
  local number = number_of(address)
  if not number then
    return false
  end
  local here = number >= FIRST_HERE and number <= LAST_HERE
  for _, rule in ipairs(rules) do
    if (here or number >= rule.First and number <= rule.Last) and title:match(rule.Pattern) then
      return true
    end
  end
  return false
end

function ReceivedInstanceFilter(dicom, origin, info)
  if origin['RequestOrigin'] ~= 'DicomProtocol' then
    return true
  end
  local title, address = origin['RemoteAet'] or '', origin['RemoteIp'] or ''
  if not admitted(title:lower():match('^%s*(.-)%s*$'), address) then
    error('ddwd: refused a C-STORE of AET ' .. title .. ' on IP ' .. address .. ': not in senders')
  end
  return true
end
