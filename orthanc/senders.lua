-- Refuses images of senders that `senders` of ddwd.yaml does not list: the AE title and the address of the sender must match one entry.
-- Loaded in ORTHANC1 if there is a list, and last, so that this filter is the one in effect. ddwd/provisioning/sender_acl.py writes the list.
-- Only an error makes Orthanc answer 0xA700; with the result `false` it would drop the image and answer Success.

local senders = ((GetOrthancConfiguration() or {})['Ddwd'] or {})['Senders']

local FIRST_HERE, LAST_HERE = 127 * 2 ^ 24, 128 * 2 ^ 24 - 1 -- from this machine only the AE title is checked

-- Returns "MR*" as a pattern of Lua.
local function as_pattern(title)
  local escaped = title:gsub('[%^%$%(%)%%%.%[%]%+%-]', '%%%0')
  return '^' .. escaped:gsub('%*', '.*'):gsub('%?', '.') .. '$'
end

for _, sender in ipairs(senders) do
  sender.Pattern = as_pattern(sender.Aet)
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
  for _, sender in ipairs(senders) do
    if (here or number >= sender.First and number <= sender.Last) and title:match(sender.Pattern) then
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
